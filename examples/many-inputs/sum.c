/* Adds the numbers of its standard input. Exit 0: the sum is that of the first argument; 1: it is not; 2: no numbers. */
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words)
{
    long sum = 0, number;
    int read;
    while ((read = scanf("%ld", &number)) == 1)
        sum += number;
    if (read == 0) {
        fprintf(stderr, "what follows %ld is no number\n", sum);
        return 2;
    }
    printf("%ld\n", sum);
    return count > 1 && sum == atol(words[1]) ? 0 : 1;
}
